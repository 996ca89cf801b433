#!/usr/bin/env bash
# Compiles the shaders to spv/ and writes MANIFEST, which a test holds against the sources. Needs glslc 2025 or later
# (GLSLC names it) and spirv-val.
set -euo pipefail
cd "$(dirname "$0")"
GLSLC=${GLSLC:-glslc}
SPIRV_VAL=${SPIRV_VAL:-spirv-val}
mkdir -p spv

compile() { # source, output, flags
    local source=$1 output=spv/$2.spv
    shift 2
    $GLSLC --target-env=vulkan1.3 -O "$@" "$source" -o "$output"
    $SPIRV_VAL --target-env vulkan1.3 "$output"
}

rm -f spv/*.spv
for source in *.comp; do
    compile "$source" "${source%.comp}"
done
for source in gemm_u8s8 peak; do
    compile "$source.comp" "${source}_dot" -DDOT
done
sha256sum compile.sh *.comp *.glsl spv/*.spv > MANIFEST
