// vcsim is VMware's vCenter simulator, started for one test run: it listens on loopback with TLS, writes its
// certificate where its clients can read it, prints one line of JSON when it is ready, and serves until SIGTERM.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator" // tags
	"github.com/vmware/govmomi/vim25/types"
)

// ready is what the tests read from standard output.
type ready struct {
	URL string `json:"url"`
	CA  string `json:"ca"`
	PID int    `json:"pid"`
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("vcsim: ")
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	// The inventory's names follow from these numbers: DC0_C0_RP0_VM0 and so on.
	model := simulator.VPX()
	// The simulator's default, 6.5, hides newer properties and methods from pyVmomi.
	model.ServiceContent.About.ApiVersion = "8.0.3.0"
	model.ServiceContent.About.Version = "8.0.3"
	model.ServiceContent.About.FullName = "VMware vCenter Server 8.0.3 (vcsim)"

	listen := flag.String("l", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	username := flag.String("username", "user", "the only user that may log in")
	password := flag.String("password", "pass", "that user's password")
	caFile := flag.String("ca-file", "", "write the server's certificate there, as PEM")
	disks := flag.Int("disks", 1, "disks of each VM")
	delay := flag.String("method-delay", "", "delay methods by milliseconds: CreateSnapshot_Task:500,Login:50")
	flag.IntVar(&model.Datacenter, "dc", model.Datacenter, "datacenters")
	flag.IntVar(&model.Folder, "folder", model.Folder, "datacenters inside folders of their own")
	flag.IntVar(&model.Cluster, "cluster", model.Cluster, "clusters in each datacenter")
	flag.IntVar(&model.ClusterHost, "host", model.ClusterHost, "hosts in each cluster")
	flag.IntVar(&model.Datastore, "ds", model.Datastore, "datastores in each datacenter")
	flag.IntVar(&model.Machine, "vm", model.Machine, "VMs in each resource pool")
	esx := flag.Bool("esx", false, "be a single ESXi host instead of a vCenter")
	flag.Parse()
	if *esx {
		model = simulator.ESX()
	}

	delays, err := methodDelays(*delay)
	if err != nil {
		return err
	}
	model.DelayConfig.MethodDelay = delays

	defer model.Remove() // the datastores are temporary folders
	if err := model.Create(); err != nil {
		return err
	}
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*username, *password)}
	model.Service.TLS = new(tls.Config)
	model.Service.RegisterEndpoints = true
	server := model.Service.NewServer()
	defer server.Close()

	if err := addDisks(model, server.URL, *disks-1); err != nil {
		return err
	}
	if *caFile != "" {
		certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		if err := os.WriteFile(*caFile, certificate, 0o644); err != nil {
			return err
		}
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	address := &url.URL{Scheme: server.URL.Scheme, Host: server.URL.Host, Path: server.URL.Path}
	if err := json.NewEncoder(os.Stdout).Encode(ready{address.String(), *caFile, os.Getpid()}); err != nil {
		return err
	}
	<-stop
	return nil
}

// methodDelays reads "Method:milliseconds,Method:milliseconds".
func methodDelays(text string) (map[string]int, error) {
	delays := make(map[string]int)
	if text == "" {
		return delays, nil
	}
	for _, entry := range strings.Split(text, ",") {
		method, milliseconds, found := strings.Cut(entry, ":")
		count, err := strconv.Atoi(milliseconds)
		if !found || err != nil || count < 0 {
			return nil, fmt.Errorf("-method-delay: %q is not Method:milliseconds", entry)
		}
		delays[method] = count
	}
	return delays, nil
}

// addDisks gives every VM so many disks of 1 GiB beside its first, through the API as a client would.
func addDisks(model *simulator.Model, server *url.URL, count int) error {
	if count < 1 {
		return nil
	}
	ctx := context.Background()
	client, err := govmomi.NewClient(ctx, server, true)
	if err != nil {
		return err
	}
	defer client.Logout(ctx)

	for _, entity := range model.Map().All("VirtualMachine") {
		vm := object.NewVirtualMachine(client.Client, entity.Reference())
		for range count {
			devices, err := vm.Device(ctx)
			if err != nil {
				return err
			}
			controller, err := devices.FindDiskController("")
			if err != nil {
				return err
			}
			disk := devices.CreateDisk(controller, types.ManagedObjectReference{}, "")
			disk.CapacityInKB = 1024 * 1024
			if err := vm.AddDevice(ctx, disk); err != nil {
				return err
			}
		}
	}
	return nil
}
