#!/bin/sh
# Bring manifests back that were away, now instead of by the timer.

. ./disarm_return.sh
. ./bring_back.sh
