// A running softmax over tiles of scores: `QUERIES` rows of `KEYS` in `scores`, which becomes weights relative to each row's
// largest score so far. Needs QUERIES, KEYS, PITCH and SCORES. A. Dao et al., FlashAttention, arXiv:2205.14135, algorithm 1.

const float LOWEST = -3.0e38;
// Invocations that share a row, and the keys of each.
const uint SHARERS = 256 / QUERIES;
const uint SHARE = KEYS / SHARERS;

shared float scores[SCORES];
// Of each row, so far.
shared float maxima[QUERIES];
shared float totals[QUERIES];
// What earlier sums are multiplied by.
shared float decays[QUERIES];
shared float parts[256];

void begin_softmax() {
    for (uint query = gl_LocalInvocationID.x; query < QUERIES; query += 256) {
        maxima[query] = LOWEST;
        totals[query] = 0.0;
    }
}

// Scores are there before, weights and decays after. Ends with a barrier.
void add_to_softmax() {
    uint thread = gl_LocalInvocationID.x;
    uint row = thread / SHARERS;
    uint lane = thread % SHARERS;
    uint first = row * PITCH + lane * SHARE;
    float own = LOWEST;
    for (uint i = 0; i < SHARE; i++) own = max(own, scores[first + i]);
    parts[thread] = own;
    barrier();
    float maximum = maxima[row];
    for (uint i = 0; i < SHARERS; i++) maximum = max(maximum, parts[row * SHARERS + i]);
    float total = 0.0;
    for (uint i = 0; i < SHARE; i++) {
        float score = scores[first + i];
        float weight = score == LOWEST ? 0.0 : exp(score - maximum);
        scores[first + i] = weight;
        total += weight;
    }
    barrier();
    parts[thread] = total;
    barrier();
    if (lane == 0) {
        float decay = exp(maxima[row] - maximum);
        total = totals[row] * decay;
        for (uint i = 0; i < SHARERS; i++) total += parts[row * SHARERS + i];
        maxima[row] = maximum;
        totals[row] = total;
        decays[row] = decay;
    }
    barrier();
}
