// SPDX-License-Identifier: Apache-2.0
#include "server/jobs/messages.h"

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/util/time_util.h"
#include "proto/base/digest.h"

namespace quantd::jobs {
namespace {

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(
      absl::ToUnixMicros(time));
}

}  // namespace

v1::Job JobMessage(const store::JobRecord& record) {
  v1::Job job;
  job.set_job_id(record.job_id);
  *job.mutable_spec() = record.spec;
  job.set_state(record.state);
  job.set_phase(record.phase);
  job.set_pending_reason(record.pending_reason);
  if (record.state == v1::JOB_STATE_FAILED) {
    *job.mutable_failure() = record.failure;
  }
  job.set_attempt(record.attempt);
  job.set_epoch(record.epoch);
  job.set_worker_name(record.worker_name);
  job.set_committed_steps(record.committed_steps);
  if (record.state == v1::JOB_STATE_SUCCEEDED) {
    *job.mutable_report() = record.report;
  }
  for (const std::string& id : record.artifact_ids) job.add_artifact_ids(id);
  *job.mutable_create_time() = ToTimestamp(record.create_time);
  if (record.start_time.has_value()) {
    *job.mutable_start_time() = ToTimestamp(*record.start_time);
  }
  if (record.end_time.has_value()) {
    *job.mutable_end_time() = ToTimestamp(*record.end_time);
  }
  job.set_last_event_seq(record.last_event_seq);
  job.set_display_name(record.display_name);
  job.set_request_id(record.request_id);
  return job;
}

store::LeaseKey KeyOf(const v1::Lease& lease) {
  return {lease.job_id(), lease.epoch(), lease.incarnation()};
}

v1::Lease LeaseOf(const store::JobRecord& record) {
  v1::Lease lease;
  lease.set_job_id(record.job_id);
  lease.set_epoch(record.epoch);
  lease.set_incarnation(record.incarnation);
  return lease;
}

std::string DigestOf(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  {
    google::protobuf::io::CodedOutputStream coded(&stream);
    // Maps have no order otherwise.
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return base::Sha256Hex(bytes);
}

}  // namespace quantd::jobs
