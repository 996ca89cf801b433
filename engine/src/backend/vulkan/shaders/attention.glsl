layout(push_constant) uniform Push {
    uint heads;
    uint queries;
    uint keys;
    uint head_dim;
    float scale;
    uint causal;
} push;

layout(binding = 0) readonly buffer Queries { float q[]; };
layout(binding = 1) readonly buffer Keys { float k[]; };
layout(binding = 2) readonly buffer Values { float v[]; };
layout(binding = 3) writeonly buffer Out { float attended[]; };
