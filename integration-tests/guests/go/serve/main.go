// `serve FD COUNT`: answers COUNT connections of the listening socket FD, each in a goroutine of its own that
// sends lines back with "go: " before them, and ends when all have closed.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
)

func main() {
	fd, err := strconv.Atoi(os.Args[1])
	check(err)
	count, err := strconv.Atoi(os.Args[2])
	check(err)
	listener, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
	check(err)
	fmt.Println("serving", os.Getenv("LISTEN_FDS"))
	var running sync.WaitGroup
	for range count {
		connection, err := listener.Accept()
		check(err)
		running.Add(1)
		go func() {
			defer running.Done()
			defer connection.Close()
			lines := bufio.NewScanner(connection)
			for lines.Scan() {
				fmt.Fprintf(connection, "go: %s\n", lines.Text())
			}
		}()
	}
	running.Wait()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
