            if ((push.flags & HAS_BIAS) != 0) value += bias[column];
            if ((push.flags & HAS_CHANNEL_BIAS) != 0) {
                uint image = (push.flags & ONE_CHANNEL_BIAS) != 0 ? 0 : row / push.out_pixels;
                value += channel_bias[image * push.n + column];
            }
            if ((push.flags & HAS_RESIDUAL) != 0) value += residual[row * push.n + column];
