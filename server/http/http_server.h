// SPDX-License-Identifier: Apache-2.0
// A small HTTP server for figures and health: GET and HEAD of fixed paths,
// nothing that writes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct mg_context;
struct mg_connection;

namespace quantd::http {

struct Response {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// From nothing to the answer of one path; called from several threads.
using Handler = std::function<Response()>;

// Threads of its own from Start to the end of its life.
class HttpServer {
 public:
  // Listens on host:port, port 0 for any free one. UNAVAILABLE,
  // HTTP_LISTEN_FAILED, where the address is taken.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const std::string& host, int port,
      std::map<std::string, Handler> handlers);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const { return port_; }

 private:
  HttpServer(std::string host, std::map<std::string, Handler> handlers);
  static int OnRequest(mg_connection* connection, void* self);
  void Knock() const;
  Response Answer(const std::string& method, const std::string& path) const;

  const std::string host_;
  const std::map<std::string, Handler> handlers_;
  mg_context* context_ = nullptr;
  int port_ = 0;
};

}  // namespace quantd::http
