//go:build tools

// Package tools names the program that this module exists to compile.
package tools

import _ "k8s.io/sample-apiserver"
