// SPDX-License-Identifier: Apache-2.0
// What a method works out of one stage's statistics alone, kept for the other
// linears that read the same input: q, k and v have one factor.
#pragma once

#include <any>
#include <map>
#include <string>
#include <utility>

namespace quantd::methods {

// One thread. Values are kept under the method's id and whatever else they
// depend on.
class SharedWork {
 public:
  // Null where no T was kept under `key`. Valid as long as this.
  template <typename T>
  const T* Find(const std::string& key) const {
    const auto found = kept_.find(key);
    return found == kept_.end() ? nullptr : std::any_cast<T>(&found->second);
  }

  template <typename T>
  void Keep(const std::string& key, T value) {
    kept_[key] = std::move(value);
  }

 private:
  std::map<std::string, std::any> kept_;
};

}  // namespace quantd::methods
