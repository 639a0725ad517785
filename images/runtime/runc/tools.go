//go:build tools

// Package tools names the program that this module exists to compile.
// It enters namespaces in C before Go starts, so it needs cgo, and libseccomp for the tag seccomp.
package tools

//slipway:tags seccomp netgo osusergo urfave_cli_no_docs
//slipway:set main.gitCommit=module

import _ "github.com/opencontainers/runc"
