// SPDX-License-Identifier: Apache-2.0
#include "server/api/blob_streams.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/api/push_stream.h"

namespace quantd::api {
namespace {

// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  ~Descriptor() { Reset(-1); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  void Reset(int fd) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

class BlobReader : public PushStream<v1::ReadBlobResponse> {
 public:
  BlobReader(Edge& edge, const v1::ReadBlobRequest& request)
      : PushStream(edge, "ReadBlob"),
        sha256_(request.sha256()),
        offset_(request.offset()) {}

 protected:
  absl::StatusOr<std::optional<v1::ReadBlobResponse>> Produce() override {
    if (file_.get() < 0) RETURN_IF_ERROR(OpenBlob());
    v1::ReadBlobResponse response;
    std::string* data = response.mutable_data();
    data->resize(std::min(kBlobChunkBytes, size_ - offset_));
    if (data->empty()) return std::nullopt;
    const ssize_t got = pread(file_.get(), data->data(), data->size(), offset_);
    if (got <= 0) {
      return base::ErrnoStatus(got < 0 ? errno : EIO, "reading a blob");
    }
    data->resize(got);
    offset_ += got;
    return response;
  }
  bool Done() const override { return offset_ == size_; }

 private:
  absl::Status OpenBlob() {
    ASSIGN_OR_RETURN(const std::string path,
                     edge_.backend().blobs->PathOf(sha256_));
    file_.Reset(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat info;
    if (file_.get() < 0 || fstat(file_.get(), &info) != 0) {
      return base::MakeError(absl::StatusCode::kNotFound, "BLOB_NOT_FOUND",
                             "the store has no blob of this digest",
                             {{"sha256", sha256_}});
    }
    size_ = info.st_size;
    if (offset_ >= 0 && offset_ <= size_) return absl::OkStatus();
    return base::MakeError(
        absl::StatusCode::kOutOfRange, "BLOB_OFFSET",
        absl::StrCat("offset ", offset_, " is outside of the blob's ", size_,
                     " bytes"),
        {{"offset", absl::StrCat(offset_)}, {"size", absl::StrCat(size_)}});
  }

  const std::string sha256_;
  int64_t offset_;
  int64_t size_ = 0;
  Descriptor file_;
};

// Reads are asked for one at a time; each is written on the executor.
class BlobWriter : public grpc::ServerReadReactor<v1::WriteBlobRequest> {
 public:
  BlobWriter(Edge& edge, v1::WriteBlobResponse* response)
      : edge_(edge), response_(response) {
    StartRead(&request_);
  }
  ~BlobWriter() override {
    if (!path_.empty()) unlink(path_.c_str());
  }

  void OnReadDone(bool ok) override {
    edge_.executor().Run([this, ok] { Take(ok); });
  }
  void OnDone() override { delete this; }

 private:
  void Take(bool ok) {
    const absl::Status status = ok ? Append() : Publish();
    if (ok && status.ok() && !response_->existed()) {
      StartRead(&request_);
      return;
    }
    edge_.Count("WriteBlob", status);
    Finish(ToGrpcStatus(status));
  }

  absl::Status Append() {
    if (file_.get() < 0) {
      RETURN_IF_ERROR(Begin());
      if (response_->existed()) return absl::OkStatus();
    }
    const std::string& data = request_.data();
    received_ += static_cast<int64_t>(data.size());
    if (received_ > expected_.size_bytes()) return WrongSize();
    for (size_t done = 0; done < data.size();) {
      const ssize_t put =
          write(file_.get(), data.data() + done, data.size() - done);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return base::ErrnoStatus(errno, "writing a blob");
      done += put;
    }
    return absl::OkStatus();
  }

  absl::Status Begin() {
    const Backend& backend = edge_.backend();
    expected_ = request_.blob();
    RETURN_IF_ERROR(backend.blobs->PathOf(expected_.sha256()).status());
    if (expected_.size_bytes() < 0 || expected_.size_bytes() > kMaxBlobBytes) {
      return WrongSize();
    }
    if (backend.blobs->Has(expected_.sha256())) {
      response_->set_existed(true);
      return absl::OkStatus();
    }
    std::error_code error;
    const auto space = std::filesystem::space(backend.blob_root, error);
    if (!error &&
        space.available < static_cast<uintmax_t>(expected_.size_bytes())) {
      return base::ErrnoStatus(ENOSPC, "writing a blob");
    }
    path_ = backend.blobs->NewTemporaryPath();
    file_.Reset(
        open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (file_.get() < 0) return base::ErrnoStatus(errno, "writing a blob");
    return absl::OkStatus();
  }

  absl::Status Publish() {
    if (file_.get() < 0 || received_ != expected_.size_bytes()) {
      return WrongSize();
    }
    RETURN_IF_ERROR(
        edge_.backend().blobs->Adopt(path_, expected_.sha256()).status());
    path_.clear();
    return absl::OkStatus();
  }

  absl::Status WrongSize() const {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "BLOB_SIZE",
        absl::StrCat("the blob was announced with ", expected_.size_bytes(),
                     " bytes and ", received_, " came"),
        {{"announced", absl::StrCat(expected_.size_bytes())},
         {"received", absl::StrCat(received_)}});
  }

  Edge& edge_;
  v1::WriteBlobResponse* const response_;
  v1::WriteBlobRequest request_;
  v1::BlobRef expected_;
  std::string path_;
  int64_t received_ = 0;
  Descriptor file_;
};

}  // namespace

grpc::ServerWriteReactor<v1::ReadBlobResponse>* ReadBlobStream(
    Edge& edge, const v1::ReadBlobRequest& request) {
  return std::make_shared<BlobReader>(edge, request)->Begin();
}

grpc::ServerReadReactor<v1::WriteBlobRequest>* WriteBlobStream(
    Edge& edge, v1::WriteBlobResponse* response) {
  return new BlobWriter(edge, response);
}

}  // namespace quantd::api
