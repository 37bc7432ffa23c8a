/* Atomic operations and fences. One thread runs at a time, so plain code is atomic; each is also a point where another thread may come
 * first. As on the device they are relaxed unless they say otherwise: what orders other accesses is race.cpp's business. */
#include "internal.h"

namespace sim {
namespace {

template <class T> T as(uint64_t bits)
{
    T v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
template <class T> uint64_t bits_of(T v)
{
    uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    return bits;
}

template <class T> T arithmetic(rmw o, T old, T v)
{
    switch (o) {
    case rmw::add: return T(old + v);
    case rmw::sub: return T(old - v);
    case rmw::max: return old < v ? v : old;
    case rmw::min: return v < old ? v : old;
    default: fault("this atomic operation has no such type");
    }
}

uint64_t integer(rmw o, uint64_t old, uint64_t v, uint64_t compare)
{
    switch (o) {
    case rmw::exch: case rmw::store: return v;
    case rmw::cas: return old == compare ? v : old;
    case rmw::and_: return old & v;
    case rmw::or_: return old | v;
    case rmw::xor_: return old ^ v;
    case rmw::inc: return old >= v ? 0 : old + 1;
    case rmw::dec: return old == 0 || old > v ? v : old - 1;
    default: return old;
    }
}

uint64_t result(rmw o, number type, uint64_t old, uint64_t v, uint64_t compare)
{
    if (o > rmw::min) return integer(o, old, v, compare);
    switch (type) {
    case number::s32: /* wraps */
        if (o <= rmw::sub) return bits_of(arithmetic(o, as<uint32_t>(old), as<uint32_t>(v)));
        return bits_of(arithmetic(o, as<int32_t>(old), as<int32_t>(v)));
    case number::u32: return bits_of(arithmetic(o, as<uint32_t>(old), as<uint32_t>(v)));
    case number::s64:
        if (o <= rmw::sub) return arithmetic(o, old, v);
        return bits_of(arithmetic(o, as<int64_t>(old), as<int64_t>(v)));
    case number::u64: return arithmetic(o, old, v);
    case number::f32: return bits_of(arithmetic(o, as<float>(old), as<float>(v)));
    case number::f64: return bits_of(arithmetic(o, as<double>(old), as<double>(v)));
    default: fault("this atomic operation has no such type");
    }
}

} // namespace

uint64_t atomic(void *p, rmw o, number type, uint64_t operand, uint64_t compare, order ord, scope s, site at)
{
    const size_t n = type == number::s64 || type == number::u64 || type == number::f64 ? 8 : 4;
    if (!on_device()) fault("atomic operation of the host");
    size_t offset;
    deny_misaligned(p, n, at);
    if (o == rmw::load) reschedule(true); /* threads that wait for a flag must let others run */
    else preempt_point();
    const runtime_scope scope;
    if (!shared_range(*current->owner, p, n, &offset) && !device_range(p, n))
        fault_as(cudaErrorIllegalAddress, "atomic operation at %s:%d: %s", at.file, at.line, describe_address(p).c_str());
    uint64_t old = 0;
    std::memcpy(&old, p, n);
    const uint64_t now = result(o, type, old, operand, compare);
    if (race) race->atomic(p, n, o != rmw::store, o != rmw::load, ord, s, at);
    std::memcpy(p, &now, n);
    return old;
}

void fence(scope s, site)
{
    if (race) race->fence(s);
    preempt_point();
}

void grid_dependency_sync(site)
{
    current->dependency_synced = true;
    preempt_point();
}

} // namespace sim
