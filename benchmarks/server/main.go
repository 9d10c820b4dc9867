// A fast TLS server for the benchmarks: serves one file as an ESXi host serves an NFC disk, that is chunked and
// without a length. GET /disk?chunk=65536 sends chunks of that size; SIGTERM ends it.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
)

func main() {
	file := flag.String("file", "", "the file to serve as /disk")
	cert := flag.String("cert", "", "the certificate, PEM")
	key := flag.String("key", "", "its key, PEM")
	flag.Parse()

	disk, err := os.Open(*file)
	if err != nil {
		log.Fatal(err)
	}
	info, err := disk.Stat()
	if err != nil {
		log.Fatal(err)
	}
	// Mapped, so that serving costs TLS and nothing else.
	content, err := syscall.Mmap(int(disk.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		log.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/disk", func(answer http.ResponseWriter, request *http.Request) {
		chunk, err := strconv.Atoi(request.URL.Query().Get("chunk"))
		if err != nil || chunk < 1 {
			chunk = 1 << 20
		}
		flusher := answer.(http.Flusher)
		flusher.Flush() // the headers, before any byte: no length can be told from here on
		for begin := 0; begin < len(content); begin += chunk {
			if _, err := answer.Write(content[begin:min(begin+chunk, len(content))]); err != nil {
				return
			}
		}
	})
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	// HTTP/2 would put the stream into frames; ESXi's NFC speaks HTTP/1.1.
	server := &http.Server{
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{pair}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	log.Fatal(server.ServeTLS(listener, "", ""))
}
