//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:set github.com/cloudnativelabs/kube-router/v2/pkg/version.Version={version}

import _ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
