//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:tags netgo osusergo
//slipway:set github.com/prometheus/common/version.Version={bare}
//slipway:set github.com/prometheus/common/version.Revision=module

import _ "github.com/prometheus/node_exporter"
