// Stands in for XRT (2022.2): the classes and functions that sat_host.cpp uses, with their signatures, and a card whose
// registers come from SAT_STUB_REGISTERS ("offset=value ..."). A start copies SAT_STUB_AFTER/regionN.bin into the open,
// writable regions and sets `done`; every register write is noted in SAT_STUB_LOG ("offset value").
// With SAT_STUB_BUSY the card still runs what another host has started: it drops every write but a reset, which ends
// the run. SAT_STUB_BUSY=N: without one the run ends, with `done`, by the N-th look at `status`; SAT_STUB_BUSY=stuck:
// neither time nor reset ends it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

enum xclBOSyncDirection { XCL_BO_SYNC_BO_TO_DEVICE = 0, XCL_BO_SYNC_BO_FROM_DEVICE };

namespace stub {

struct Memory {
    std::vector<char> host, card;
};

inline std::map<uint64_t, Memory>& memory() {
    static std::map<uint64_t, Memory> all;
    return all;
}

inline std::string setting(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

}  // namespace stub

namespace xrt {

using memory_group = uint32_t;

class uuid {};

class device {
public:
    device() = default;
    explicit device(unsigned int index) {
        if (index != 0) throw std::runtime_error("no such device");
    }
    uuid load_xclbin(const std::string& path) {
        if (!std::ifstream(path)) throw std::runtime_error("cannot open " + path);
        return {};
    }
};

class xclbin {
public:
    class mem {
    public:
        explicit mem(int at) : at_(at) {}
        bool get_used() const { return at_ == 1; }
        int32_t get_index() const { return at_; }

    private:
        int at_;
    };
    explicit xclbin(const std::string&) {}
    std::vector<mem> get_mems() const { return {mem(0), mem(1)}; }
};

class bo {
public:
    bo(const xrt::device&, size_t size, memory_group group) {
        if (group != 1) throw std::runtime_error("the kernel does not reach this bank");
        static uint64_t next = 1ull << 33;
        address_ = next;
        next += (size + 4095) / 4096 * 4096;
        stub::memory()[address_] = {std::vector<char>(size), std::vector<char>(size)};
    }
    ~bo() { stub::memory().erase(address_); }
    uint64_t address() const { return address_; }
    void write(const void* source, size_t size, size_t seek) {
        std::memcpy(stub::memory()[address_].host.data() + seek, source, size);
    }
    void read(void* target, size_t size, size_t skip) {
        std::memcpy(target, stub::memory()[address_].host.data() + skip, size);
    }
    void sync(xclBOSyncDirection way) {
        auto& both = stub::memory()[address_];
        (way == XCL_BO_SYNC_BO_TO_DEVICE ? both.card = both.host : both.host = both.card);
    }

private:
    uint64_t address_;
};

class ip {
public:
    ip() = default;
    ip(const xrt::device&, const xrt::uuid&, const std::string& name) {
        if (name != "sat_kernel") throw std::runtime_error("no IP " + name);
        std::istringstream words(stub::setting("SAT_STUB_REGISTERS"));
        std::string word;
        while (words >> word) {
            auto at = word.find('=');
            held_[std::stoul(word.substr(0, at))] = std::stoul(word.substr(at + 1));
        }
        busy_ = stub::setting("SAT_STUB_BUSY");
        held_[4] = busy_.empty() ? 1 : 0;
    }
    uint32_t read_register(uint32_t offset) const {
        if (offset == 4 && !busy_.empty() && busy_ != "stuck" && ++looks_ >= std::stoi(busy_)) {
            busy_.clear();
            held_[4] = 3;
        }
        auto found = held_.find(check(offset));
        return found == held_.end() ? 0 : found->second;
    }
    void write_register(uint32_t offset, uint32_t value) {
        std::ofstream(stub::setting("SAT_STUB_LOG"), std::ios::app) << check(offset) << ' ' << value << '\n';
        if (!busy_.empty()) {
            if (offset == 0 && (value & 2) && busy_ != "stuck") {
                busy_.clear();
                held_[4] = 1;
            }
            return;
        }
        if (offset == 4) value = held_[4] & ~(value & 2);
        held_[offset] = value;
        if (offset == 0 && (value & 1)) start();
    }

private:
    static uint32_t check(uint32_t offset) {
        if (offset >= 4096 || offset % 4) throw std::out_of_range("register offset");
        return offset;
    }
    void start() {
        for (uint32_t i = 0; i < 4; ++i) {
            uint32_t at = 0x80 + 0x20 * i;
            if (held_[at + 16] != 3) continue;
            std::ifstream file(stub::setting("SAT_STUB_AFTER") + "/region" + std::to_string(i) + ".bin", std::ios::binary);
            std::vector<char> after((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
            auto found = stub::memory().find(held_[at] | static_cast<uint64_t>(held_[at + 4]) << 32);
            if (found == stub::memory().end()) throw std::runtime_error("a region lies in no buffer");
            if (!after.empty()) found->second.card = after;
        }
        held_[4] = 3;
    }
    mutable std::map<uint32_t, uint32_t> held_;
    mutable std::string busy_;
    mutable int looks_ = 0;
};

}  // namespace xrt
