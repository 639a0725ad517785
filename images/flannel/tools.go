//go:build tools

// Package tools names the program that this module exists to compile.
// For amd64 its UDP backend is in C, and flannel does not compile without it: it needs cgo there.
package tools

//slipway:tags netgo osusergo
//slipway:name flanneld github.com/flannel-io/flannel
//slipway:set github.com/flannel-io/flannel/pkg/version.Version={version}

import _ "github.com/flannel-io/flannel"
