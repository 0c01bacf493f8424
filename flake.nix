# The programs as a Nix package and a shell to work in. Evaluated by nobody yet and built by nobody yet: there is no
# lock file, so `nix flake lock` comes first. nixpkgs' nbdkit is built without its Python plugin; the override below
# adds the interpreter to its inputs. A NixOS module is not here yet.
{
  description = "Hyphae: one store for a few ordinary computers that loses nothing";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      nbdkitWithPython =
        pkgs: pkgs.nbdkit.overrideAttrs (old: { buildInputs = (old.buildInputs or [ ]) ++ [ pkgs.python3 ]; });
    in
    {
      packages = forEach (pkgs: rec {
        hyphae = pkgs.python3Packages.buildPythonApplication {
          pname = "hyphae";
          version = "0.1.0";
          pyproject = true;
          src = self;
          build-system = [ pkgs.python3Packages.setuptools ];
          pythonRelaxDeps = true; # the versions of nixpkgs instead of those in requirements.lock
          dependencies = with pkgs.python3Packages; [
            asyncio-dgram
            cryptography
            mmh3
            msgspec
            prometheus-client
            rich
            structlog
            typer
            uvloop
            xxhash
          ];
          makeWrapperArgs = [ "--prefix PATH : ${pkgs.lib.makeBinPath [ (nbdkitWithPython pkgs) pkgs.libnbd ]}" ];
          doCheck = false; # the tests start whole clusters; `make test` runs them
          pythonImportsCheck = [ "store.cli.main" ];
          meta.mainProgram = "store";
        };
        default = hyphae;
      });

      devShells = forEach (pkgs: {
        default = pkgs.mkShell {
          packages = [
            (pkgs.python3.withPackages (python: with python; [
              asyncio-dgram
              cryptography
              hypothesis
              mmh3
              msgspec
              mypy
              prometheus-client
              pytest
              pytest-timeout
              pytest-xdist
              rich
              structlog
              typer
              uvloop
              xxhash
            ]))
            pkgs.e2fsprogs
            pkgs.fio
            pkgs.fuse3
            pkgs.libnbd
            pkgs.ruff
            (nbdkitWithPython pkgs)
          ];
        };
      });
    };
}
