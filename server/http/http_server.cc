// SPDX-License-Identifier: Apache-2.0
#include "server/http/http_server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "civetweb.h"
#include "proto/base/error.h"

namespace quantd::http {

namespace {

// A number of mg_check_feature.
constexpr unsigned kFeatureIpv6 = 8;
constexpr absl::Duration kKnockInterval = absl::Milliseconds(10);

}  // namespace

HttpServer::HttpServer(std::string host,
                       std::map<std::string, Handler> handlers)
    : host_(std::move(host)), handlers_(std::move(handlers)) {
  mg_init_library(MG_FEATURES_DEFAULT);
}

HttpServer::~HttpServer() {
  if (context_ != nullptr) {
    // The accepting thread looks whether it is to stop only when a connection
    // comes or every 2 s.
    absl::Notification stopped;
    std::thread stop([&] {
      mg_stop(context_);
      stopped.Notify();
    });
    while (!stopped.WaitForNotificationWithTimeout(kKnockInterval)) Knock();
    stop.join();
  }
  mg_exit_library();
}

// Connects and hangs up.
void HttpServer::Knock() const {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* address = nullptr;
  const std::string port = absl::StrCat(port_);
  if (getaddrinfo(host_.c_str(), port.c_str(), &hints, &address) != 0) return;
  const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0) {
    // Once the port is closed this is refused, which is just as well.
    (void)connect(fd, address->ai_addr, address->ai_addrlen);
    close(fd);
  }
  freeaddrinfo(address);
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const std::string& host, int port,
    std::map<std::string, Handler> handlers) {
  auto server =
      std::unique_ptr<HttpServer>(new HttpServer(host, std::move(handlers)));
  if (absl::StrContains(host, ":") && mg_check_feature(kFeatureIpv6) == 0) {
    return base::MakeError(
        absl::StatusCode::kUnavailable, "HTTP_LISTEN_FAILED",
        "the HTTP library of this build has no IP version 6; choose an "
        "address of version 4 with --http-listen, for example 127.0.0.1:7434");
  }
  const std::string listen = absl::StrContains(host, ":")
                                 ? absl::StrCat("[", host, "]:", port)
                                 : absl::StrCat(host, ":", port);
  // No document root is set, so that no file can ever be served.
  const char* options[] = {"listening_ports",
                           listen.c_str(),
                           "num_threads",
                           "4",
                           "request_timeout_ms",
                           "10000",
                           "max_request_size",
                           "8192",
                           "enable_keep_alive",
                           "no",
                           nullptr};
  mg_callbacks callbacks = {};
  // A refused port is reported by the status below.
  callbacks.log_message = [](const mg_connection*, const char*) { return 1; };
  server->context_ = mg_start(&callbacks, server.get(), options);
  mg_server_port bound[1] = {};
  if (server->context_ == nullptr ||
      mg_get_server_ports(server->context_, 1, bound) != 1) {
    return base::MakeError(
        absl::StatusCode::kUnavailable, "HTTP_LISTEN_FAILED",
        absl::StrCat("port ", port,
                     " for HTTP cannot be listened on; another program may "
                     "hold it, choose one with --http-listen"),
        {{"port", absl::StrCat(port)}});
  }
  server->port_ = bound[0].port;
  mg_set_request_handler(server->context_, "/", &HttpServer::OnRequest,
                         server.get());
  return server;
}

Response HttpServer::Answer(const std::string& method,
                            const std::string& path) const {
  if (method != "GET" && method != "HEAD") {
    return {405, "text/plain; charset=utf-8", "this port is read-only\n"};
  }
  const auto handler = handlers_.find(path);
  if (handler == handlers_.end()) {
    return {404, "text/plain; charset=utf-8", "nothing is here\n"};
  }
  return handler->second();
}

int HttpServer::OnRequest(mg_connection* connection, void* self) {
  const mg_request_info* request = mg_get_request_info(connection);
  const Response response = static_cast<HttpServer*>(self)->Answer(
      request->request_method, request->local_uri);
  std::string head = absl::StrCat(
      "HTTP/1.1 ", response.status, " ",
      mg_get_response_code_text(connection, response.status),
      "\r\nContent-Type: ", response.content_type,
      "\r\nContent-Length: ", response.body.size(),
      "\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store"
      "\r\nConnection: close\r\n");
  if (response.status == 405) head += "Allow: GET, HEAD\r\n";
  head += "\r\n";
  if (std::string(request->request_method) != "HEAD") head += response.body;
  mg_write(connection, head.data(), head.size());
  return response.status;
}

}  // namespace quantd::http
