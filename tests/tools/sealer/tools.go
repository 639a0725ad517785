//go:build tools

// Package tools names the program that this module exists to compile.
package tools

//slipway:tags containers_image_openpgp exclude_graphdriver_btrfs exclude_graphdriver_devicemapper
//slipway:set github.com/sealerio/sealer/version.gitVersion={version}
import _ "github.com/sealerio/sealer/cmd/sealer"
