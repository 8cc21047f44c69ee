// The product's kernels in terms of a vector of floats, as in solver.inl. Included once by each instruction-set file,
// inside its anonymous namespace, after solver.inl.

// Entry e of a table of four inputs: start from all minus, then each higher half is the lower half plus one input.
void build_tables(size_t bytes, const float* x, size_t width, float* tables) {
    for (size_t g = 0; g < 2 * bytes; ++g, x += 4 * width, tables += 16 * width) {
        if (width == 1) {
            tables[0] = -0.5f * ((x[0] + x[1]) + (x[2] + x[3]));
            for (int q = 0; q < 4; ++q)
                for (int e = 0; e < (1 << q); ++e) tables[(1 << q) + e] = tables[e] + x[q];
        } else {
            for (size_t c = 0; c < BQQ_PANEL; c += kWidth) {
                vf in[4];
                for (int q = 0; q < 4; ++q) in[q] = vload(x + q * BQQ_PANEL + c);
                vf t[16];
                t[0] = vmul(vset(-0.5f), vadd(vadd(in[0], in[1]), vadd(in[2], in[3])));
                for (int q = 0; q < 4; ++q)
                    for (int e = 0; e < (1 << q); ++e) t[(1 << q) + e] = vadd(t[e], in[q]);
                for (int e = 0; e < 16; ++e) vstore(tables + e * BQQ_PANEL + c, t[e]);
            }
        }
    }
}

void lookup_narrow(size_t rows, size_t bytes, const uint8_t* bits, size_t stride, const float* tables, float* out,
                   int accumulate) {
    // Four rows at a time: the additions of one row form a chain, those of four rows overlap.
    size_t i = 0;
    for (; i + 4 <= rows; i += 4, bits += 4 * stride) {
        float s[4] = {0, 0, 0, 0}, h[4] = {0, 0, 0, 0};
        for (size_t b = 0; b < bytes; ++b) {
            const float *low = tables + 32 * b, *high = low + 16;
            for (int q = 0; q < 4; ++q) {
                const unsigned byte = bits[q * stride + b];
                s[q] += low[byte & 15];
                h[q] += high[byte >> 4];
            }
        }
        for (int q = 0; q < 4; ++q) out[i + q] = (accumulate ? out[i + q] : 0.0f) + (s[q] + h[q]);
    }
    for (; i < rows; ++i, bits += stride) {
        float s = 0, h = 0;
        for (size_t b = 0; b < bytes; ++b) {
            s += tables[32 * b + (bits[b] & 15)];
            h += tables[32 * b + 16 + (bits[b] >> 4)];
        }
        out[i] = (accumulate ? out[i] : 0.0f) + (s + h);
    }
}

void lookup(size_t rows, size_t bytes, const uint8_t* bits, size_t stride, const float* tables, size_t width,
            float* out, int accumulate) {
    if (width == 1) return lookup_narrow(rows, bytes, bits, stride, tables, out, accumulate);
    constexpr int kVectors = BQQ_PANEL / kWidth;
    for (size_t i = 0; i < rows; ++i, bits += stride, out += BQQ_PANEL) {
        vf s[kVectors], h[kVectors];
        for (int v = 0; v < kVectors; ++v) s[v] = accumulate ? vload(out + v * kWidth) : vset(0), h[v] = vset(0);
        for (size_t b = 0; b < bytes; ++b) {
            const float* low = tables + (32 * b + (bits[b] & 15)) * BQQ_PANEL;
            const float* high = tables + (32 * b + 16 + (bits[b] >> 4)) * BQQ_PANEL;
            for (int v = 0; v < kVectors; ++v) {
                s[v] = vadd(s[v], vload(low + v * kWidth));
                h[v] = vadd(h[v], vload(high + v * kWidth));
            }
        }
        for (int v = 0; v < kVectors; ++v) vstore(out + v * kWidth, vadd(s[v], h[v]));
    }
}

void fill_product(bqq_kernels* table) {
    table->build_tables = build_tables;
    table->lookup = lookup;
}
