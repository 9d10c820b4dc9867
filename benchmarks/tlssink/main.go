// A fast TLS server for the benchmarks that takes uploads as an ESXi host takes the disks of an import (POST or PUT of
// an exact length) and throws every byte away: it costs TLS and nothing else. SIGTERM ends it.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
)

func main() {
	cert := flag.String("cert", "", "the certificate, PEM")
	key := flag.String("key", "", "its key, PEM")
	flag.Parse()
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	buffers := sync.Pool{New: func() any { buffer := make([]byte, 1<<20); return &buffer }}
	take := func(answer http.ResponseWriter, request *http.Request) {
		buffer := buffers.Get().(*[]byte)
		defer buffers.Put(buffer)
		for {
			if _, err := request.Body.Read(*buffer); err != nil {
				return // its end, or a client that is gone
			}
		}
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	// HTTP/2 would put the stream into frames; ESXi's NFC speaks HTTP/1.1.
	server := &http.Server{
		Handler:      http.HandlerFunc(take),
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{pair}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	log.Fatal(server.ServeTLS(listener, "", ""))
}
