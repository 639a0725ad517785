//go:build tools

// Package tools names the programs that this module exists to compile.
package tools

//slipway:tags netgo osusergo
//slipway:set github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo.Version=victoria-logs-{version}

import _ "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs"
import _ "github.com/VictoriaMetrics/VictoriaLogs/app/vlagent"
