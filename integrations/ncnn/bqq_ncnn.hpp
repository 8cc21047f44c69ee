// bqq in ncnn: a layer "BqqLinear", x -> W x for each row of a blob, W compressed by bqq.
#pragma once

#include <net.h>

namespace bqq_ncnn {

/// Before load_param. Returns what ncnn::Net::register_custom_layer does: 0 on success.
int register_layer(ncnn::Net& net);

} // namespace bqq_ncnn
