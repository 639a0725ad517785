//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:tags netgo osusergo

import _ "slipway.dev/configmap-files"
