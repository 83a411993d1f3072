"""What the build generates, besides compiling C: the synchronous part of the SDK. Not part of the package."""
