// The readers of text that nobody has checked: the container's header, a matrix's record, names.
#include "bytes.hpp"

#include "bqq/error.hpp"
#include "file/record.hpp"
#include "file/safetensors.hpp"
#include "file/text.hpp"

#include <memory>

using namespace bqq;

namespace {

void container(const std::uint8_t* data, std::size_t size) {
    const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[size]); // of no byte more: reading on is found
    std::copy_n(data, size, exact.get());
    const detail::Container c = detail::parse_safetensors(exact.get(), size, "input");
    std::size_t covered = 0;
    for (const Tensor& t : c.tensors) {
        fuzz::promise(t.data >= exact.get() && t.data + t.nbytes <= exact.get() + size, "tensors lie in the file");
        std::size_t bytes = 0;
        fuzz::promise(!detail::tensor_bytes(t.shape, detail::item_bits(t.dtype), bytes) && bytes == t.nbytes,
                      "a tensor has the bytes of its shape");
        fuzz::promise(detail::is_utf8(t.name), "names are UTF-8");
        covered += t.nbytes;
    }
    std::uint64_t header = 0;
    std::memcpy(&header, exact.get(), 8);
    fuzz::promise(covered == size - 8 - header, "the tensors cover the data");
}

void record(const std::string& text) {
    const detail::Record r = detail::read_record(text, "input");
    const detail::Record again = detail::read_record(detail::write_record(r), "again");
    fuzz::promise(again.layout == r.layout && again.crc == r.crc, "a record that is written reads the same");
}

void quoted(const std::string& text) {
    const std::string quote = detail::quote(text);
    fuzz::promise(detail::is_utf8(quote) && quote.size() < 220, "a quoted name is UTF-8 and short");
    for (const char c : quote) fuzz::promise(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F, "and printable");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        if (size && data[0] < 9) { // the length of a header is hardly ever that small
            const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
            quoted(text);
            record(text);
        } else {
            container(data, size);
        }
    } catch (const Error& e) {
        fuzz::promise(e.code() == ErrorCode::format, "what is wrong with a text is a format error");
        fuzz::promise(detail::is_utf8(e.what()), "whose own text is UTF-8");
    }
    return 0;
}
