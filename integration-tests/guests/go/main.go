// Starts a whole runtime with a scheduler and a garbage collector, to say hello and its arguments.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println("hello from go")
	for _, arg := range os.Args {
		fmt.Println("arg:", arg)
	}
}
