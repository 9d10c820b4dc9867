// A fast TLS server for the benchmarks that speaks just enough S3 to be uploaded to, looks at the checksums that come
// in headers, and throws every byte away. It does not authenticate. SIGTERM ends it.
package main

import (
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
)

type sink struct {
	sync.Mutex
	sizes   map[string]int64 // of each object: the sum of what was put there
	uploads int
}

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
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{
		Handler:      &sink{sizes: map[string]int64{}},
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{pair}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	log.Fatal(server.ServeTLS(listener, "", ""))
}

func (s *sink) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	query := request.URL.Query()
	switch {
	case request.Method == "PUT":
		s.put(answer, request)
	case request.Method == "POST" && query.Has("uploads"):
		s.Lock()
		s.uploads++
		id := s.uploads
		s.sizes[request.URL.Path] = 0
		s.Unlock()
		fmt.Fprintf(answer, "<InitiateMultipartUploadResult><UploadId>%d</UploadId></InitiateMultipartUploadResult>", id)
	case request.Method == "POST":
		io.Copy(io.Discard, request.Body)
		fmt.Fprint(answer, `<CompleteMultipartUploadResult><ETag>"etag"</ETag></CompleteMultipartUploadResult>`)
	case request.Method == "HEAD":
		s.Lock()
		size, there := s.sizes[request.URL.Path]
		s.Unlock()
		answer.Header().Set("ETag", `"etag"`)
		answer.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		if !there {
			answer.WriteHeader(http.StatusNotFound)
		}
	case request.Method == "DELETE":
		s.Lock()
		delete(s.sizes, request.URL.Path)
		s.Unlock()
		answer.WriteHeader(http.StatusNoContent)
	default:
		fmt.Fprint(answer, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
	}
}

func (s *sink) put(answer http.ResponseWriter, request *http.Request) {
	var check hash.Hash
	var expected string
	if expected = request.Header.Get("x-amz-checksum-crc32"); expected != "" {
		check = crc32.NewIEEE()
	} else if expected = request.Header.Get("Content-MD5"); expected != "" {
		check = md5.New()
	}
	var into io.Writer = io.Discard
	if check != nil {
		into = check
	}
	size, err := io.CopyBuffer(struct{ io.Writer }{into}, struct{ io.Reader }{request.Body}, make([]byte, 1<<20))
	if err != nil {
		return
	}
	if decoded, err := strconv.ParseInt(request.Header.Get("x-amz-decoded-content-length"), 10, 64); err == nil {
		size = decoded
	}
	if check != nil && base64.StdEncoding.EncodeToString(sum(check)) != expected {
		answer.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(answer, "<Error><Code>BadDigest</Code></Error>")
		return
	}
	s.Lock()
	s.sizes[request.URL.Path] += size
	s.Unlock()
	answer.Header().Set("ETag", `"etag"`)
}

func sum(of hash.Hash) []byte {
	if small, ok := of.(hash.Hash32); ok {
		return binary.BigEndian.AppendUint32(nil, small.Sum32())
	}
	return of.Sum(nil)
}
