#!/bin/sh
set -e
kubectl create deployment cache \
  --image=registry.example.com/cache:7
