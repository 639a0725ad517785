//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:set github.com/distribution/distribution/v3/version.version={bare}
//slipway:set github.com/distribution/distribution/v3/version.revision=module
//slipway:set github.com/distribution/distribution/v3/version.mainpkg=github.com/distribution/distribution/v3

import _ "github.com/distribution/distribution/v3/cmd/registry"
