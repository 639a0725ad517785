//go:build tools

// Package tools names the program that this module exists to compile.
package tools

import _ "sigs.k8s.io/hydrophone"
