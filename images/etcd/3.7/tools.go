//go:build tools

// Package tools names the programs that this module exists to compile.
package tools

// etcd itself comes first: its version is that of the image.
//slipway:name etcd go.etcd.io/etcd/server/v3
//slipway:name etcdctl go.etcd.io/etcd/etcdctl/v3
//slipway:name etcdutl go.etcd.io/etcd/etcdutl/v3
//slipway:set go.etcd.io/etcd/api/v3/version.GitSHA=module

import _ "go.etcd.io/etcd/server/v3"
import _ "go.etcd.io/etcd/etcdctl/v3"
import _ "go.etcd.io/etcd/etcdutl/v3"
