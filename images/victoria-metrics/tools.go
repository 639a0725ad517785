//go:build tools

// Package tools names the programs that this module exists to compile.
package tools

//slipway:tags netgo osusergo
//slipway:set github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo.Version=victoria-metrics-{version}

import _ "github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics"
import _ "github.com/VictoriaMetrics/VictoriaMetrics/app/vmagent"
import _ "github.com/VictoriaMetrics/VictoriaMetrics/app/vmalert"
import _ "github.com/VictoriaMetrics/VictoriaMetrics/app/vmauth"
