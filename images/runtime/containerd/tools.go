//go:build tools

// Package tools names the programs that this module exists to compile.
package tools

// Without cgo there is no btrfs; zfs and device mapper need programs and devices that nodes lack.
//slipway:tags netgo osusergo static_build no_btrfs no_devmapper no_zfs urfave_cli_no_docs
//slipway:set github.com/containerd/containerd/v2/version.Version={version}
//slipway:set github.com/containerd/containerd/v2/version.Revision=module
//slipway:set github.com/containerd/containerd/v2/version.Package=github.com/containerd/containerd/v2

import _ "github.com/containerd/containerd/v2/cmd/containerd"
import _ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
import _ "github.com/containerd/containerd/v2/cmd/ctr"
