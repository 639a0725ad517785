//go:build tools

// Package tools names the programs that this module exists to compile.
package tools

//slipway:tags netgo osusergo
//slipway:set github.com/prometheus/common/version.Version=3.16.0
//slipway:set github.com/prometheus/common/version.Revision=module

import _ "github.com/prometheus/prometheus/cmd/prometheus"
