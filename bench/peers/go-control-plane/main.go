// A control plane made of go-control-plane's parts, for comparison: delta xDS over one LinearCache of load
// assignments, or over one SnapshotCache.
//
// It has no sources: what it serves comes over a control connection, line by line. `set NAME ADDRESS:PORT,...`
// says what endpoints a load assignment has from the next `commit` on, which is answered by `ok` when the
// cache has taken it in; answers to orders that came together go together.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// everyone is the one group of nodes that a SnapshotCache knows: all of them see the same.
type everyone struct{}

func (everyone) ID(*core.Node) string { return "everyone" }

// served is a cache and how it takes in changed load assignments.
type served struct {
	cache cache.Cache
	apply func(changed map[string]types.Resource) error
}

func linear() served {
	assignments := cache.NewLinearCache(resource.EndpointType)
	mux := &cache.MuxCache{
		Classify:      func(request *cache.Request) string { return request.GetTypeUrl() },
		ClassifyDelta: func(request *cache.DeltaRequest) string { return request.GetTypeUrl() },
		Caches:        map[string]cache.Cache{resource.EndpointType: assignments},
	}
	return served{mux, func(changed map[string]types.Resource) error {
		return assignments.UpdateResources(changed, nil)
	}}
}

func snapshots() served {
	snapshots := cache.NewSnapshotCache(true, everyone{}, nil)
	all := map[string]types.Resource{}
	version := 0
	return served{snapshots, func(changed map[string]types.Resource) error {
		for name, assignment := range changed {
			all[name] = assignment
		}
		list := make([]types.Resource, 0, len(all))
		for _, assignment := range all {
			list = append(list, assignment)
		}
		version++
		resources := map[resource.Type][]types.Resource{resource.EndpointType: list}
		snapshot, err := cache.NewSnapshot(strconv.Itoa(version), resources)
		if err != nil {
			return err
		}
		return snapshots.SetSnapshot(context.Background(), "everyone", snapshot)
	}}
}

// assignment is shaped like Legation's: one locality with its weight, each endpoint with its health.
func assignment(name, list string) (*endpoint.ClusterLoadAssignment, error) {
	endpoints := []*endpoint.LbEndpoint{}
	for _, place := range strings.Split(list, ",") {
		if place == "" {
			continue
		}
		host, text, err := net.SplitHostPort(place)
		if err != nil {
			return nil, err
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, err
		}
		socket := &core.SocketAddress{
			Address:       host,
			PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)},
		}
		address := &core.Address{Address: &core.Address_SocketAddress{SocketAddress: socket}}
		endpoints = append(endpoints, &endpoint.LbEndpoint{
			HealthStatus:   core.HealthStatus_HEALTHY,
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: address}},
		})
	}
	locality := &endpoint.LocalityLbEndpoints{
		Locality:            &core.Locality{},
		LoadBalancingWeight: wrapperspb.UInt32(uint32(len(endpoints))),
		LbEndpoints:         endpoints,
	}
	localities := []*endpoint.LocalityLbEndpoints{locality}
	return &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: localities}, nil
}

// obey takes orders until the connection ends.
func obey(connection net.Conn, served served) error {
	orders, answers := bufio.NewReaderSize(connection, 64<<10), bufio.NewWriter(connection)
	changed := map[string]types.Resource{}
	for {
		if orders.Buffered() == 0 {
			if err := answers.Flush(); err != nil {
				return err
			}
		}
		order, err := orders.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		order = strings.TrimSuffix(order, "\n")
		switch words := strings.SplitN(order, " ", 3); words[0] {
		case "set":
			if len(words) < 3 {
				return fmt.Errorf("incomplete: %s", order)
			}
			made, err := assignment(words[1], words[2])
			if err != nil {
				return err
			}
			changed[words[1]] = made
		case "commit":
			if err := served.apply(changed); err != nil {
				return err
			}
			changed = map[string]types.Resource{}
			if _, err := fmt.Fprintln(answers, "ok"); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unknown order: %s", words[0])
		}
	}
}

// versions are those of what is measured here.
func versions() string {
	text := "built by " + runtime.Version()
	build, _ := debug.ReadBuildInfo()
	if build == nil {
		return text
	}
	for _, module := range build.Deps {
		switch module.Path {
		case "github.com/envoyproxy/go-control-plane", "google.golang.org/grpc":
			_, name, _ := strings.Cut(module.Path, "/")
			name = name[strings.LastIndex(name, "/")+1:]
			text = name + " " + module.Version + ", " + text
		}
	}
	return text
}

func main() {
	xds := flag.String("xds", "127.0.0.1:18000", "where clients connect")
	control := flag.String("control", "127.0.0.1:18001", "where orders come from")
	kind := flag.String("cache", "linear", "linear or snapshot")
	certificate := flag.String("certificate", "", "serve TLS with this certificate")
	key := flag.String("key", "", "and this key")
	version := flag.Bool("version", false, "say what this is built from, and end")
	flag.Parse()
	if *version {
		fmt.Println(versions())
		return
	}

	served := map[string]func() served{"linear": linear, "snapshot": snapshots}[*kind]()
	options := []grpc.ServerOption{}
	if *certificate != "" {
		pair, err := tls.LoadX509KeyPair(*certificate, *key)
		if err != nil {
			log.Fatal(err)
		}
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	}
	grpcServer := grpc.NewServer(options...)
	ads := server.NewServer(context.Background(), served.cache, nil)
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, ads)
	endpointservice.RegisterEndpointDiscoveryServiceServer(grpcServer, ads)

	clients, err := net.Listen("tcp", *xds)
	if err != nil {
		log.Fatal(err)
	}
	orders, err := net.Listen("tcp", *control)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(grpcServer.Serve(clients)) }()
	for {
		connection, err := orders.Accept()
		if err != nil {
			log.Fatal(err)
		}
		if err := obey(connection, served); err != nil {
			log.Fatal(err)
		}
		connection.Close()
	}
}
