// What `skopeo copy --all SOURCE DESTINATION` does, on the library that skopeo itself is made of, in its current version.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/transports/alltransports"
	"go.podman.io/image/v5/types"
)

const library = "go.podman.io/image/"

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func version() string {
	about, _ := debug.ReadBuildInfo()
	for _, one := range about.Deps {
		if strings.HasPrefix(one.Path, library) {
			return one.Version
		}
	}
	return ""
}

func main() {
	if len(os.Args) != 3 {
		fmt.Println(version())
		return
	}
	source, err := alltransports.ParseImageName(os.Args[1])
	check(err)
	destination, err := alltransports.ParseImageName(os.Args[2])
	check(err)
	anything := signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: anything})
	check(err)
	about := &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	_, err = copy.Image(context.Background(), policy, destination, source, &copy.Options{
		SourceCtx: about, DestinationCtx: about, ImageListSelection: copy.CopyAllImages,
	})
	check(err)
}
