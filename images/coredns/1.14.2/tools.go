//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:tags grpcnotrace
//slipway:set github.com/coredns/coredns/coremain.GitCommit=module

import _ "github.com/coredns/coredns"
