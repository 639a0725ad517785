//go:build tools

// Package tools names the program that this module exists to compile.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
