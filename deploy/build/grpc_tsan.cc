// SPDX-License-Identifier: Apache-2.0
// Shows ThreadSanitizer what gRPC's core orders without a lock.
//
// A batch of a call is started by one thread and finished by another; in
// between it goes through queues of the core, which is not instrumented. Every
// batch has a tag, which both ends know: starting it releases the tag, and
// taking its completion from a queue acquires it (the callback API of the
// packaged gRPC is fed from such queues too). Only what belongs to one batch is
// ordered by this, so races between handlers are still found.
#include <dlfcn.h>
#include <grpc/grpc.h>
#include <sanitizer/tsan_interface.h>
#include <stdlib.h>

namespace {

template <typename Function>
Function Library(const char* name) {
  void* address = dlsym(RTLD_NEXT, name);
  if (address == nullptr) abort();
  return reinterpret_cast<Function>(address);
}

}  // namespace

extern "C" {

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops,
                                      size_t nops, void* tag, void* reserved) {
  static const auto library =
      Library<decltype(&grpc_call_start_batch)>("grpc_call_start_batch");
  __tsan_release(tag);
  return library(call, ops, nops, tag, reserved);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue,
                                      gpr_timespec deadline, void* reserved) {
  static const auto library = Library<decltype(&grpc_completion_queue_next)>(
      "grpc_completion_queue_next");
  const grpc_event event = library(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag,
                                       gpr_timespec deadline, void* reserved) {
  static const auto library = Library<decltype(&grpc_completion_queue_pluck)>(
      "grpc_completion_queue_pluck");
  const grpc_event event = library(queue, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(tag);
  return event;
}

}  // extern "C"
