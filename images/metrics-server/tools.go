//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:set k8s.io/client-go/pkg/version.gitVersion={version}
//slipway:set k8s.io/client-go/pkg/version.gitCommit=module
//slipway:set k8s.io/client-go/pkg/version.buildDate=1970-01-01T00:00:00Z

// The JSON of its kube-openapi is made for a Go in which the experiment is off: with it, descriptions of its API come out broken.
//slipway:experiment nojsonv2

import _ "sigs.k8s.io/metrics-server/cmd/metrics-server"
