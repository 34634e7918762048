// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/kernels/cuda_fibers.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace quantd::kernels {
namespace {

constexpr size_t kStackBytes = 64 * 1024;

// What a fiber waits for: a generation of its block's or its warp's barrier.
struct Barrier {
  int arrived = 0;
  int64_t generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  FiberIndex index;
  bool done = false;
  Barrier* waits_for = nullptr;
  int64_t generation = 0;
};

struct Warp {
  Barrier barrier;
  int population = 0;
  float slots[32] = {};
};

// The block that runs now. Fibers and scheduler share one thread.
struct Block {
  ucontext_t scheduler;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  int population = 0;
  size_t current = 0;
  const std::function<void()>* kernel = nullptr;
};

Block* block = nullptr;

Fiber& Current() { return block->fibers[block->current]; }
Warp& CurrentWarp() { return block->warps[Current().index.thread.x / 32]; }

void Open(Barrier* barrier) {
  barrier->arrived = 0;
  ++barrier->generation;
}

void Await(Barrier* barrier, int population) {
  Fiber& fiber = Current();
  fiber.generation = barrier->generation;
  if (++barrier->arrived >= population) {
    Open(barrier);
    return;
  }
  fiber.waits_for = barrier;
  swapcontext(&fiber.context, &block->scheduler);
}

// A thread that has ended is no longer waited for.
void Leave() {
  Warp& warp = CurrentWarp();
  Current().done = true;
  if (--warp.population == warp.barrier.arrived && warp.population > 0) {
    Open(&warp.barrier);
  }
  if (--block->population == block->barrier.arrived && block->population > 0) {
    Open(&block->barrier);
  }
}

void Enter() {
  (*block->kernel)();
  Leave();
  swapcontext(&Current().context, &block->scheduler);
}

bool Runnable(const Fiber& fiber) {
  if (fiber.done) return false;
  return fiber.waits_for == nullptr ||
         fiber.waits_for->generation != fiber.generation;
}

void RunBlock(size_t start) {
  const size_t count = block->fibers.size();
  while (block->population > 0) {
    bool moved = false;
    for (size_t i = 0; i < count; ++i) {
      block->current = (start + i) % count;
      Fiber& fiber = Current();
      if (!Runnable(fiber)) continue;
      fiber.waits_for = nullptr;
      moved = true;
      swapcontext(&block->scheduler, &fiber.context);
    }
    if (!moved) {
      fprintf(stderr, "divergent barrier in a kernel\n");
      abort();
    }
  }
}

void PrepareFibers(dim3 size) {
  const size_t count = size.x;
  block->fibers.resize(count);
  block->warps.assign((count + 31) / 32, Warp());
  block->barrier = Barrier();
  block->population = static_cast<int>(count);
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = block->fibers[i];
    if (fiber.stack == nullptr) fiber.stack.reset(new char[kStackBytes]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, Enter, 0);
    fiber.done = false;
    fiber.waits_for = nullptr;
    fiber.index.thread = dim3(static_cast<unsigned>(i), 0, 0);
    ++block->warps[i / 32].population;
  }
}

}  // namespace

const FiberIndex& CurrentFiber() { return Current().index; }

void BlockBarrier() { Await(&block->barrier, block->population); }

float WarpExchange(float value, int from) {
  Warp& warp = CurrentWarp();
  warp.slots[Current().index.thread.x % 32] = value;
  Await(&warp.barrier, warp.population);
  const float taken = warp.slots[from];
  Await(&warp.barrier, warp.population);
  return taken;
}

void RunKernel(dim3 grid, dim3 size, const std::function<void()>& kernel) {
  Block running;
  running.kernel = &kernel;
  block = &running;
  size_t number = 0;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x, ++number) {
        PrepareFibers(size);
        for (Fiber& fiber : running.fibers) {
          fiber.index.block = dim3(x, y, z);
          fiber.index.block_size = size;
          fiber.index.grid_size = grid;
        }
        RunBlock(number * 7 % running.fibers.size());
      }
    }
  }
  block = nullptr;
}

}  // namespace quantd::kernels
