//go:build tools

// Package tools names the programs that this module exists to compile.
package tools

//slipway:set github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion={version}

import _ "github.com/containernetworking/plugins/plugins/ipam/host-local"
import _ "github.com/containernetworking/plugins/plugins/ipam/static"
import _ "github.com/containernetworking/plugins/plugins/main/bridge"
import _ "github.com/containernetworking/plugins/plugins/main/loopback"
import _ "github.com/containernetworking/plugins/plugins/main/ptp"
import _ "github.com/containernetworking/plugins/plugins/meta/firewall"
import _ "github.com/containernetworking/plugins/plugins/meta/portmap"
import _ "github.com/containernetworking/plugins/plugins/meta/tuning"
