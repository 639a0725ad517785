//go:build tools

// Package tools names the program that this module exists to compile.
package tools

// Its version is that of Kubernetes, and the tags of the image are those of agnhost: the Dockerfile says which belongs to which.
//slipway:name agnhost-1.37 k8s.io/kubernetes/test/images/agnhost
// The tags and the stamps of a release build.
//slipway:tags selinux notest grpcnotrace
//slipway:set k8s.io/component-base/version.gitVersion={version}
//slipway:set k8s.io/component-base/version.gitMajor={major}
//slipway:set k8s.io/component-base/version.gitMinor={minor}
//slipway:set k8s.io/component-base/version.gitTreeState=clean
//slipway:set k8s.io/component-base/version.gitCommit=module
//slipway:set k8s.io/component-base/version.buildDate=1970-01-01T00:00:00Z
//slipway:set k8s.io/client-go/pkg/version.gitVersion={version}
//slipway:set k8s.io/client-go/pkg/version.gitMajor={major}
//slipway:set k8s.io/client-go/pkg/version.gitMinor={minor}
//slipway:set k8s.io/client-go/pkg/version.gitTreeState=clean
//slipway:set k8s.io/client-go/pkg/version.gitCommit=module
//slipway:set k8s.io/client-go/pkg/version.buildDate=1970-01-01T00:00:00Z

import _ "k8s.io/kubernetes/test/images/agnhost"
