// Host of the SAT machine on a card, by XRT's own interface (2022.2 and later): one file, nothing of nmsat beside it but
// sat_registers.h. C++, since XRT gives the registers of a user-managed kernel to C++ alone (xrt::ip).
//
//   g++ -std=c++17 -I../registers -I$XILINX_XRT/include sat_host.cpp -o sat_host -L$XILINX_XRT/lib -lxrt_coreutil -luuid
//   ./sat_host sat.xclbin FOLDER OUT [DEVICE]
//
// FOLDER is what `nmsat program --out FOLDER` writes: launch.txt and the regions before the run. OUT, made if it is not
// there, takes the regions that the program may write; FOLDER/expected holds what they must be
// (cmp OUT/region2.bin FOLDER/expected/region2.bin).
// With -DSAT_LIBRARY -shared -fPIC the file is the library behind `nmsat card validate --backend xrt`.

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#if __has_include(<xrt/experimental/xrt_ip.h>)
#include <xrt/experimental/xrt_ip.h>
#include <xrt/experimental/xrt_xclbin.h>
#else
#include <experimental/xrt_ip.h>
#include <experimental/xrt_xclbin.h>
#endif

#include "sat_registers.h"

namespace {

// The card: its registers, and the memory banks that the kernel is linked to, by the number of its port.
struct Card {
    xrt::device device;
    xrt::uuid id;
    xrt::ip registers;
    std::vector<int> banks;

    Card(const std::string& image, const std::string& kernel, unsigned number)
        : device(number), id(device.load_xclbin(image)), registers(device, id, kernel), banks(used_banks(image)) {}

    static std::vector<int> used_banks(const std::string& image) {
        std::vector<int> found;
        for (const auto& memory : xrt::xclbin(image).get_mems())
            if (memory.get_used()) found.push_back(memory.get_index());
        if (found.empty()) throw std::runtime_error("no memory of " + image + " is used");
        return found;
    }

    int bank(uint32_t port) const {
        if (port >= banks.size())
            throw std::runtime_error("port " + std::to_string(port) + " has no memory: the image uses " +
                                     std::to_string(banks.size()));
        return banks[port];
    }
};

}  // namespace

#ifdef SAT_LIBRARY

// For Python: handles, and 0 for success. What went wrong is told by sat_error.
namespace {
thread_local std::string message;

template <typename Work>
int guarded(Work work) {
    try {
        work();
        return 0;
    } catch (const std::exception& error) {
        message = error.what();
        return 1;
    }
}
}  // namespace

extern "C" {

const char* sat_error() { return message.c_str(); }

void* sat_open(const char* image, const char* kernel, unsigned device) {
    Card* card = nullptr;
    guarded([&] { card = new Card(image, kernel, device); });
    return card;
}

void sat_close(void* card) { delete static_cast<Card*>(card); }

int sat_read(void* card, uint32_t offset, uint32_t* value) {
    return guarded([&] { *value = static_cast<Card*>(card)->registers.read_register(offset); });
}

int sat_write(void* card, uint32_t offset, uint32_t value) {
    return guarded([&] { static_cast<Card*>(card)->registers.write_register(offset, value); });
}

void* sat_buffer(void* card, uint64_t bytes, uint32_t port) {
    xrt::bo* buffer = nullptr;
    guarded([&] {
        Card* owner = static_cast<Card*>(card);
        buffer = new xrt::bo(owner->device, bytes, owner->bank(port));
    });
    return buffer;
}

uint64_t sat_address(void* buffer) { return static_cast<xrt::bo*>(buffer)->address(); }

int sat_upload(void* buffer, const void* data, uint64_t bytes) {
    return guarded([&] {
        xrt::bo* memory = static_cast<xrt::bo*>(buffer);
        memory->write(data, bytes, 0);
        memory->sync(XCL_BO_SYNC_BO_TO_DEVICE);
    });
}

int sat_download(void* buffer, void* data, uint64_t bytes) {
    return guarded([&] {
        xrt::bo* memory = static_cast<xrt::bo*>(buffer);
        memory->sync(XCL_BO_SYNC_BO_FROM_DEVICE);
        memory->read(data, bytes, 0);
    });
}

void sat_free(void* buffer) { delete static_cast<xrt::bo*>(buffer); }

}  // extern "C"

#else

namespace {

constexpr int REGIONS = 4;
constexpr uint32_t REGION_STEP = SAT_REGION1_BASE - SAT_REGION0_BASE;
constexpr std::chrono::seconds TIMEOUT{60};
constexpr std::chrono::seconds RESET_TIMEOUT{1};  // what is on the bus ends in microseconds where memory answers
constexpr uint64_t PAGE = 4096;  // a base that is no multiple of it is refused

struct Region {
    bool writable = false;
    uint32_t port = 0;
    std::string file;
    std::vector<char> data;
    std::unique_ptr<xrt::bo> buffer;
};

// A register that the card must have for the program, and its value: the machine that the program was written for.
struct Need {
    std::string name;
    uint32_t offset = 0;
    uint32_t value = 0;
};

struct Launch {
    std::vector<Need> machine;
    Region regions[REGIONS];
    uint32_t region = 0;
    uint64_t at = 0;
    uint32_t count = 0;
};

std::vector<char> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return std::vector<char>(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// launch.txt: `machine REGISTER OFFSET VALUE`, `region NUMBER read|write FILE [PORT]` and `program REGION AT COUNT`, a
// line each; # starts a comment.
Launch read_launch(const std::string& folder) {
    std::ifstream file(folder + "/launch.txt");
    if (!file) throw std::runtime_error("cannot read " + folder + "/launch.txt");
    Launch launch;
    std::string line;
    while (std::getline(file, line)) {
        std::istringstream words(line);
        std::string word, rights;
        int number = 0;
        if (!(words >> word) || word[0] == '#') continue;
        Need need;
        if (word == "machine" && words >> need.name >> need.offset >> need.value && need.offset % 4 == 0 &&
            need.offset < SAT_REGISTER_BYTES) {
            launch.machine.push_back(need);
        } else if (word == "region" && words >> number >> rights && number >= 0 && number < REGIONS) {
            Region& region = launch.regions[number];
            region.writable = rights == "write";
            if (!(words >> region.file)) throw std::runtime_error("launch.txt: " + line);
            if (!(words >> region.port)) region.port = 0;
            region.data = read_file(folder + "/" + region.file);
        } else if (!(word == "program" && words >> launch.region >> launch.at >> launch.count)) {
            throw std::runtime_error("launch.txt: " + line);
        }
    }
    if (launch.machine.empty())
        throw std::runtime_error("launch.txt names no machine; write it anew (nmsat program --out)");
    return launch;
}

// Whether the card is the machine that the program is for. Only reads.
void compare(Card& card, const Launch& launch) {
    for (const Need& need : launch.machine) {
        uint32_t found = card.registers.read_register(need.offset);
        if (found != need.value)
            throw std::runtime_error("the program is for a machine with " + need.name + " " +
                                     std::to_string(need.value) + ", the card has " + std::to_string(found) +
                                     "; write it for the card (nmsat program --config)");
    }
}

void write_pair(xrt::ip& registers, uint32_t offset, uint64_t value) {
    registers.write_register(offset, static_cast<uint32_t>(value));
    registers.write_register(offset + 4, static_cast<uint32_t>(value >> 32));
}

// Before anything is written: a card that still runs (the host before was killed; XRT does not stop it) drops settings
// and start, and would answer with the end of the other run. Command `reset` ends that run.
void settle(Card& card) {
    xrt::ip& registers = card.registers;
    if (registers.read_register(SAT_STATUS) & SAT_STATUS_IDLE) return;
    std::fprintf(stderr, "sat_host: the card still runs what another host has started; it is reset\n");
    registers.write_register(SAT_COMMAND, SAT_COMMAND_RESET);
    auto end = std::chrono::steady_clock::now() + RESET_TIMEOUT;
    while (!(registers.read_register(SAT_STATUS) & SAT_STATUS_IDLE)) {
        if (std::chrono::steady_clock::now() > end)
            throw std::runtime_error("the card still waits for its memory after a reset; load it anew (xbutil reset)");
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

void place(Card& card, Launch& launch) {
    for (int i = 0; i < REGIONS; ++i) {
        Region& region = launch.regions[i];
        uint32_t at = i * REGION_STEP;
        uint32_t flags = 0;
        if (!region.data.empty()) {
            region.buffer = std::make_unique<xrt::bo>(card.device, region.data.size(), card.bank(region.port));
            region.buffer->write(region.data.data(), region.data.size(), 0);
            region.buffer->sync(XCL_BO_SYNC_BO_TO_DEVICE);
            if (region.buffer->address() % PAGE) throw std::runtime_error("a buffer does not begin at a page");
            write_pair(card.registers, SAT_REGION0_BASE + at, region.buffer->address());
            write_pair(card.registers, SAT_REGION0_SIZE + at, region.data.size() / 64);
            flags = SAT_REGION0_FLAGS_OPEN | (region.writable ? SAT_REGION0_FLAGS_WRITABLE : 0);
        }
        card.registers.write_register(SAT_REGION0_FLAGS + at, flags);
#ifdef SAT_REGION0_PORT
        card.registers.write_register(SAT_REGION0_PORT + at, region.port);
#else
        if (region.port) throw std::runtime_error("launch.txt: the machine has one port");
#endif
    }
    card.registers.write_register(SAT_PROGRAM_REGION, launch.region);
    write_pair(card.registers, SAT_PROGRAM_AT, launch.at);
    card.registers.write_register(SAT_PROGRAM_COUNT, launch.count);
    card.registers.write_register(SAT_WATCHDOG, 0);  // its reset value: whoever had the card before may have set another
}

void run(Card& card) {
    xrt::ip& registers = card.registers;
    registers.write_register(SAT_COMMAND, SAT_COMMAND_START);
    auto end = std::chrono::steady_clock::now() + TIMEOUT;
    while (!(registers.read_register(SAT_STATUS) & SAT_STATUS_DONE)) {
        if (std::chrono::steady_clock::now() > end) {
            registers.write_register(SAT_COMMAND, SAT_COMMAND_RESET);
            throw std::runtime_error("the program has not ended in time; the machine was reset");
        }
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    uint32_t status = registers.read_register(SAT_STATUS);
    if (status & SAT_STATUS_ERROR)
        throw std::runtime_error("error " + std::to_string(registers.read_register(SAT_ERROR_CODE)) +
                                 " at instruction " + std::to_string(registers.read_register(SAT_ERROR_INDEX)));
    uint64_t cycles = registers.read_register(SAT_CYCLES);
    cycles |= static_cast<uint64_t>(registers.read_register(SAT_CYCLES_HIGH)) << 32;
    std::printf("cycles %llu\n", static_cast<unsigned long long>(cycles));
    registers.write_register(SAT_STATUS, SAT_STATUS_DONE);
}

// Before the run, so that a folder which cannot be made is known first.
void make_folder(const std::string& folder) {
    if (mkdir(folder.c_str(), 0777) && errno != EEXIST)
        throw std::runtime_error("cannot make " + folder + ": " + std::strerror(errno));
    struct stat found;
    if (stat(folder.c_str(), &found) || !S_ISDIR(found.st_mode)) throw std::runtime_error(folder + " is no folder");
}

void keep(Launch& launch, const std::string& folder) {
    for (Region& region : launch.regions) {
        if (!region.buffer || !region.writable) continue;
        region.buffer->sync(XCL_BO_SYNC_BO_FROM_DEVICE);
        region.buffer->read(region.data.data(), region.data.size(), 0);
        std::ofstream file(folder + "/" + region.file, std::ios::binary);
        file.write(region.data.data(), static_cast<std::streamsize>(region.data.size()));
        if (!file) throw std::runtime_error("cannot write " + folder + "/" + region.file);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: %s XCLBIN FOLDER OUT [DEVICE]\n", argv[0]);
        return 2;
    }
    try {
        Card card(argv[1], "sat_kernel", argc > 4 ? std::stoul(argv[4]) : 0);
        uint32_t version = card.registers.read_register(SAT_VERSION);
        if (version != SAT_VERSION_VALUE) throw std::runtime_error("the card is no SAT of this version");
        Launch launch = read_launch(argv[2]);
        compare(card, launch);
        make_folder(argv[3]);
        settle(card);
        place(card, launch);
        run(card);
        keep(launch, argv[3]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sat_host: %s\n", error.what());
        return 1;
    }
    return 0;
}

#endif
