//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:set main.VERSION={version}

import _ "github.com/rancher/local-path-provisioner"
