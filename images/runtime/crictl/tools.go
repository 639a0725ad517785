//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:set sigs.k8s.io/cri-tools/pkg/version.Version={bare}

import _ "sigs.k8s.io/cri-tools/cmd/crictl"
