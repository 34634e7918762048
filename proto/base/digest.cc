// SPDX-License-Identifier: Apache-2.0
#include "proto/base/digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/escaping.h"
#include "proto/base/error.h"

namespace quantd::base {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr);
}

Sha256::~Sha256() = default;

void Sha256::Update(absl::string_view bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

std::string Sha256::Finish() {
  unsigned char digest[32];
  unsigned int length = sizeof(digest);
  EVP_DigestFinal_ex(state_->context, digest, &length);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<char*>(digest), sizeof(digest)));
}

std::string Sha256Hex(absl::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

absl::StatusOr<FileDigest> DigestFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return MakeError(absl::StatusCode::kNotFound, "FILE_NOT_FOUND",
                     "a file to digest cannot be opened");
  }
  std::vector<char> buffer(1 << 20);
  Sha256 hash;
  FileDigest result;
  for (;;) {
    const ssize_t count = read(fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      close(fd);
      return MakeError(absl::StatusCode::kDataLoss, "FILE_READ_FAILED",
                       "a file to digest cannot be read to its end");
    }
    if (count == 0) break;
    hash.Update(absl::string_view(buffer.data(), count));
    result.size_bytes += count;
  }
  close(fd);
  result.sha256 = hash.Finish();
  return result;
}

}  // namespace quantd::base
