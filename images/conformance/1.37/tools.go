//go:build tools

// Package tools names the programs that this module exists to compile.
package tools

// The tags and the stamps of a release build.
//slipway:tags selinux notest grpcnotrace
// What the conformance image of Kubernetes calls its entry point.
//slipway:name kubeconformance k8s.io/kubernetes/test/conformance/image/go-runner
//slipway:test e2e.test k8s.io/kubernetes/test/e2e
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

import _ "k8s.io/kubernetes/test/e2e"
import _ "github.com/onsi/ginkgo/v2/ginkgo"
import _ "k8s.io/kubernetes/cmd/kubectl"
import _ "k8s.io/kubernetes/test/conformance/image/go-runner"
