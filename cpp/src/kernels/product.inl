// What every instruction set's product shares, in terms of the vector vf of solver.inl.

float latents(size_t count, const float* v, float r, float shift, float* w) {
    const vf vr = vset(r), vs = vset(shift);
    vf sum = vset(0);
    size_t e = 0;
    for (; e + kWidth <= count; e += kWidth) {
        const vf x = vload(v + e);
        sum = vadd(sum, x);
        vstore(w + e, vfma(vr, x, vs));
    }
    float total = vsum(sum);
    for (; e < count; ++e) {
        total += v[e];
        w[e] = r * v[e] + shift;
    }
    return total;
}
