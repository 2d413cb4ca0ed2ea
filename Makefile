# Each target does all its own set-up on a fresh machine: python3 is enough, apt (as root) brings the real parts.
.PHONY: setup system demo test check templates kube bench bench-peers clean
.DEFAULT_GOAL := help
BIN := .venv/bin

help:
	@echo "make setup   the virtual environment (.venv) with eks-bundler[build,lab] and the tools of development"
	@echo "make demo    the main job, end to end, on this machine: bake, build, ship, install (about two minutes)"
	@echo "make test    every test; real docker-registry, skopeo, packer, dockerd, helm, kubectl, kube-apiserver, moto"
	@echo "make check   format, lint, types, layers"
	@echo "make templates  packer validate of every template in packer/"
	@echo "make bench   how fast we are beside others, in turn (90 minutes; a quiet machine); goes on where it was"
	@echo "             interrupted, with the rows that this bundler/ has not; BENCH='--only build-local' for a part"
	@echo "make bench-peers   installs what bench compares us with (Go, apt, cargo; up to 20 minutes)"
	@echo "make kube    build the Kubernetes control plane that tests and demo use; prints KUBEBUILDER_ASSETS"

setup: .venv/ready

.venv/ready: pyproject.toml uv.lock .ci/setup
	@.ci/setup
	@touch $@

system:
	@.ci/system

kube: setup
	@$(BIN)/python tests/kube/build.py

demo: setup system
	@$(BIN)/python tests/demo/demo.py

test: setup system
	@assets=$$($(BIN)/python tests/kube/build.py) || echo "the tests that need a Kubernetes API will fail: see above" >&2; \
	nodeadm=$$($(BIN)/python tests/kube/nodeadm.py) || echo "the tests that need the real nodeadm are left out: see above" >&2; \
	eval "$$assets"; eval "$$nodeadm"; \
	KUBEBUILDER_ASSETS="$$KUBEBUILDER_ASSETS" NODEADM="$$NODEADM" $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -q $(PYTEST)

bench: setup
	@$(BIN)/python -m tests.bench --docs docs/performance.md $(BENCH)

bench-peers: setup
	@$(BIN)/python -m tests.bench.install

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

templates: system
	@.ci/validate-templates

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache dist
