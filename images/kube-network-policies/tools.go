//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:name netpol sigs.k8s.io/kube-network-policies/cmd

import _ "sigs.k8s.io/kube-network-policies/cmd"
