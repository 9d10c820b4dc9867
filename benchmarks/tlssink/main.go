// A fast TLS server for the benchmarks that takes uploads as an ESXi host takes the disks of an import (POST or PUT of
// an exact length) and throws every byte away. SIGTERM ends it.
//
// A real host decrypts on its own machine; here it would take the cores that the client needs. So the sink shakes hands
// and reads the head of each request by crypto/tls, and of the body it reads only the heads of the TLS records, to see
// when all of it has come. With -decrypt it decrypts every record.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

const (
	recordHead   = 5
	overhead12   = 8 + 16 // AES-GCM in TLS 1.2: the explicit nonce and the tag
	overhead13   = 1 + 16 // AES-GCM in TLS 1.3: the content's type and the tag
	largestPlain = 16 << 10
	piece        = 256 << 10 // bytes of a body that are read at once
)

func main() {
	cert := flag.String("cert", "", "the certificate, PEM")
	key := flag.String("key", "", "its key, PEM")
	decrypt := flag.Bool("decrypt", false, "decrypt the bodies, too")
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
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		},
	}
	if *decrypt {
		log.Fatal(serve(listener, config))
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			if err := take(connection, config); err != nil {
				log.Print(err)
			}
		}()
	}
}

// serve decrypts and discards.
func serve(listener net.Listener, config *tls.Config) error {
	buffers := sync.Pool{New: func() any { buffer := make([]byte, 1<<20); return &buffer }}
	discard := func(answer http.ResponseWriter, request *http.Request) {
		buffer := buffers.Get().(*[]byte)
		defer buffers.Put(buffer)
		for {
			if _, err := request.Body.Read(*buffer); err != nil {
				return // its end, or a client that is gone
			}
		}
	}
	// HTTP/2 would put the stream into frames; ESXi's NFC speaks HTTP/1.1.
	server := &http.Server{
		Handler:      http.HandlerFunc(discard),
		TLSConfig:    config,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	return server.ServeTLS(listener, "", "")
}

// take takes one request, of whose body no record is decrypted but those that came with its head.
func take(connection net.Conn, config *tls.Config) error {
	raw := bufio.NewReaderSize(connection, piece)
	secure := tls.Server(&records{Conn: connection, raw: raw}, config)
	// As large as a record: crypto/tls hands over all of one, so that the next begins in raw.
	plain := bufio.NewReaderSize(secure, 2*largestPlain)
	request, err := http.ReadRequest(plain)
	if err != nil {
		return err
	}
	overhead := int64(overhead13)
	if secure.ConnectionState().Version == tls.VersionTLS12 {
		overhead = overhead12
	}
	for left, low := request.ContentLength-int64(plain.Buffered()), 1; left > 0; {
		if wanted := woken(left); wanted != low {
			if err := setLowWater(connection.(*net.TCPConn), wanted); err != nil {
				return err
			}
			low = wanted
		}
		head, err := raw.Peek(recordHead)
		if err != nil {
			return err
		}
		size := int64(binary.BigEndian.Uint16(head[3:]))
		if head[0] != 23 || size <= overhead {
			return fmt.Errorf("a record of the type %d with %d bytes", head[0], size)
		}
		if _, err := raw.Discard(recordHead + int(size)); err != nil {
			return err
		}
		left -= size - overhead
	}
	// govc panics ("send on closed channel") at an answer that comes before it has seen the end of its own file.
	time.Sleep(20 * time.Millisecond)
	// The next request would be lost to crypto/tls, which counts the records.
	if _, err := secure.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")); err != nil {
		return err
	}
	if err := secure.CloseWrite(); err != nil {
		return err
	}
	// A connection that is closed before the client's end loses the answer.
	connection.SetReadDeadline(time.Now().Add(10 * time.Second))
	io.Copy(io.Discard, raw)
	return nil
}

// woken is how many bytes have to wait before the kernel wakes the reader; the last ones must not wait for others.
func woken(left int64) int {
	if left > 4*piece {
		return piece
	}
	return 1
}

func setLowWater(connection *net.TCPConn, size int) error {
	control, err := connection.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = control.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, size)
	})
	return errors.Join(err, failed)
}

// records hands a connection to crypto/tls one record at a time, so that it reads nothing of the next ahead.
type records struct {
	net.Conn
	raw  *bufio.Reader
	left int
}

func (r *records) Read(data []byte) (int, error) {
	if r.left == 0 {
		head, err := r.raw.Peek(recordHead)
		if err != nil {
			return 0, err
		}
		r.left = recordHead + int(binary.BigEndian.Uint16(head[3:]))
	}
	count, err := r.raw.Read(data[:min(len(data), r.left)])
	r.left -= count
	return count, err
}
